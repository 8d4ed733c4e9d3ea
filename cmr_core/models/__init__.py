"""The methods, one file each. `registry.load()` finds them; nothing else lists them."""
