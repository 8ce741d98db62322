"""How often an answer is what the live tool says, measured on the recordings themselves."""
