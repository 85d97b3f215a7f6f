//! What the controller needs from the world, as traits and their data: Kubernetes API types, never a client.
