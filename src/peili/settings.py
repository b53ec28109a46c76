"""Every option of Peili, parsed once into frozen values."""
