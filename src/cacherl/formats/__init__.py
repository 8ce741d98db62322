"""Other people's trajectory files: read into tasks and trajectories, written from them.

| module | what |
| --- | --- |
| `rows` | the rows of a file, streamed |
| `conversation` | what a row says, in order, into a task and a trajectory |
| `format` | what a `Format` (read) and a `Target` (written) are |
| one a format | a `Format`, a `Target`, or both |
| `table` | every format by name; guessing which one a file is |
"""
