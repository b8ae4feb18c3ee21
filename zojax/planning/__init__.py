"""Programs for machines that are not here: what they take of memory, links and time."""
