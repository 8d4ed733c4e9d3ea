"""From files to a Split: readers, markets, protocols, description, audit and a synthetic corpus."""
