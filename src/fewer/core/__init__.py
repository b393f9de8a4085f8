"""What every room shares, and nothing that only one of them needs."""
