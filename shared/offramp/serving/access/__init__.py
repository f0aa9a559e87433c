"""Who may do what: keys, tokens and certificates, and the names by which a node may be addressed."""
