"""Load images and build batches: decoders, dataset mappers, data loaders."""
