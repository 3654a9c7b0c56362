"""What generates: one small protocol, a fake that ships beside it, and adapters. Loads no torch by itself."""
