"""Publish: what of a folder may leave the house, and what comes into it from a hub.

contents   which files go up, and what speaks against it: secrets, held-out answers
readme     the data card as a hub wants it: front matter and Markdown
push       all of it together, in one commit
pull       one commit into one folder, checked byte for byte

Only files that are named here ever leave: the journal (paid replies, live calls), keys and locks do not.
"""
