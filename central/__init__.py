"""Central's side: rung by tills, it asks them in turn and commits what they answer."""
