"""From the files of other tools to drafts, plans and float graphs."""
