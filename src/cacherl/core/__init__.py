"""The vocabulary of every room: messages, tools, tasks, trajectories, models, errors, files.

This room imports no other room of the package.
"""
