"""Runs that nobody watches: detached from the terminal, or started by cron, systemd or Slurm.

May import every room before it, and the functions of ``cluster.api``.
"""
