"""What people and programs are told: pure functions from what the ledger holds to text and JSON."""
