"""The built-in world "rigid math": arithmetic with fixed habits of error, where feedback says wrong and no more."""
