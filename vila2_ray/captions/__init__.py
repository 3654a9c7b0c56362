"""What VILA² does with text: prompts, fusion, filters, metrics, boxes. Pure: no torch, no Ray, no files."""
