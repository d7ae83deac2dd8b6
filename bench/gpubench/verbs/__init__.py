"""The verbs of the command, a file each: its flags, and one call."""
