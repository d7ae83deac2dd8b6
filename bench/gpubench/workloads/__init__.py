"""One file a workload; the folder is read, nothing is registered."""
