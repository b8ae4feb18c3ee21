"""The shortcut beside the journal."""
