"""Many devices and many processes: the mesh, where arrays lie on it, and which process decides.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.distributed.mesh import (
    DATA,
    MODEL,
    Layout,
    choose_mesh,
    layout_of,
    local_pages,
    make_layout,
    put,
    put_pages,
    replicated,
    shardings_of,
)

__all__ = [
    "DATA",
    "MODEL",
    "Layout",
    "choose_mesh",
    "layout_of",
    "local_pages",
    "make_layout",
    "put",
    "put_pages",
    "replicated",
    "shardings_of",
]
