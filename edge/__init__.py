"""The till's side: what is closed here is numbered, kept, rung for and handed to central when it asks."""
