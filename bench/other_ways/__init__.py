"""Programs that somebody would write or set up instead of tillstream, as short as such programs are; for the bench."""
