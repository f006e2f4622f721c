"""How the schema came to be what it is, a file a step; never change one that was released."""
