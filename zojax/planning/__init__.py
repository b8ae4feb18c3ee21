"""Plan runs on machines that are not here: the memory, links and time that they need."""
