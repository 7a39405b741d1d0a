"""The command line of softlabels: one module a command, nothing but arguments, progress and exit codes."""
