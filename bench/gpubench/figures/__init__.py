"""One file a figure; the folder is read, nothing is registered."""
