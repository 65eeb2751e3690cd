"""What could go wrong, on this machine and on the hosts of a spec; each finding with its cure."""
