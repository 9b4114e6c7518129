"""How a file gets onto a disk whole: names, durability, and the manners of mounted file systems."""
