"""What must not be seen, and by whom: secrets, personal data, held-out answers."""
