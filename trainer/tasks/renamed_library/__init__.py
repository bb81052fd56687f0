"""The built-in world "a new library, learned from its error messages": a model meets functions under new names."""
