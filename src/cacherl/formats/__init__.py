"""Other people's trajectory files: read into tasks and trajectories, written from them.

| module | what |
| --- | --- |
| `rows` | the rows of a file, streamed |
| `conversation` | what a row says, in order, into a task and a trajectory |
| one a format | a `Format`: its name, and how a row of it is read |
| `table` | every format by name; guessing which one a file is |
"""
