"""The built-in world "house dialect": every verb has several meanings, and each house settles on one of them."""
