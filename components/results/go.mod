module terrarium.dev/components/results

go 1.26.0
