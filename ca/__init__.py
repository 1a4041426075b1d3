"""Who is who: keys, certificates, and what was revoked."""
