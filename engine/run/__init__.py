"""What is a run on disk? Its folders, their identity and manifests, parts, locks, progress, and the
second look at it all."""
