"""What files and the kernel say."""
