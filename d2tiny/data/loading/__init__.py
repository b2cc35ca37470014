"""From files to batches: images, mappers, loaders."""
