"""What is no virus, and how often a classifier says that it is one."""
