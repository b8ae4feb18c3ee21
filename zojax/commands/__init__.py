"""The commands: one file each, with its arguments, its work and its output."""
