"""Many devices and many processes: the mesh, where every array lies on it, and who decides."""

from zojax.distributed.mesh import DATA, MODEL, Layout, choose_mesh, make_layout, shardings_of

__all__ = ["DATA", "MODEL", "Layout", "choose_mesh", "make_layout", "shardings_of"]
