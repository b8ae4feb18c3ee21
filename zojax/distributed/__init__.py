"""Many devices and many processes: the mesh, where every array lies on it, and who decides."""

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
