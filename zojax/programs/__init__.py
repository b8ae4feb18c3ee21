"""Compiled programs, made ahead and counted; a request to stop."""
