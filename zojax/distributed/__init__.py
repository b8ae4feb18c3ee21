"""Many devices: the mesh, and where every array lies on it."""

from zojax.distributed.mesh import DATA, MODEL, Layout, choose_mesh, make_layout, shardings_of

__all__ = ["DATA", "MODEL", "Layout", "choose_mesh", "make_layout", "shardings_of"]
