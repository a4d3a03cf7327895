"""Never loaded: the name it claims is another's."""
