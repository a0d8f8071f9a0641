"""The HTTP edges: node routes, admin routes, and what they share."""
