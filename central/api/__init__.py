"""The REST API below /api/v1: for programs, with a token."""
