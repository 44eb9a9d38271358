from medseg3d.cli import main

raise SystemExit(main())
