"""The miniature's own networks and how they are trained."""
