"""Where recordings are, whole or not, on one machine or carried between them."""
