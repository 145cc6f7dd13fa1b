"""A GAN trained by several processes that exchange all their weights through refstore."""
