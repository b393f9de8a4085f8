"""Tasks that several rooms share: small real data sets, made worlds, and the user's own files."""
