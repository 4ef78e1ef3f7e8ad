"""What training needs beside model and data: parameter groups, schedules and loops."""
