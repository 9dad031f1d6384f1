#include "textflag.h"

// func addVector(dst *float32, src *byte, n int)
//
// dst[i] += src[i] for n values, a multiple of 16 and at least 16. SSE is in
// every amd64 processor, and adds each value as the Go code does, to the bit.
TEXT ·addVector(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

loop:
	MOVUPS (DI), X0
	MOVUPS 16(DI), X1
	MOVUPS 32(DI), X2
	MOVUPS 48(DI), X3
	MOVUPS (SI), X4
	MOVUPS 16(SI), X5
	MOVUPS 32(SI), X6
	MOVUPS 48(SI), X7
	ADDPS  X4, X0
	ADDPS  X5, X1
	ADDPS  X6, X2
	ADDPS  X7, X3
	MOVUPS X0, (DI)
	MOVUPS X1, 16(DI)
	MOVUPS X2, 32(DI)
	MOVUPS X3, 48(DI)
	ADDQ   $64, DI
	ADDQ   $64, SI
	SUBQ   $16, CX
	JNZ    loop
	RET

// func encodeVector(dst *byte, src *float32, n int)
//
// The bytes of n values as they lie in memory, which is how they travel.
TEXT ·encodeVector(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

loop:
	MOVUPS (SI), X0
	MOVUPS 16(SI), X1
	MOVUPS 32(SI), X2
	MOVUPS 48(SI), X3
	MOVUPS X0, (DI)
	MOVUPS X1, 16(DI)
	MOVUPS X2, 32(DI)
	MOVUPS X3, 48(DI)
	ADDQ   $64, DI
	ADDQ   $64, SI
	SUBQ   $16, CX
	JNZ    loop
	RET

// func decodeVector(dst *float32, src *byte, n int)
//
// The way back, which moves bytes all the same.
TEXT ·decodeVector(SB), NOSPLIT, $0-24
	JMP ·encodeVector(SB)
